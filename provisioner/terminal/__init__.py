"""What people see on a terminal: steps with a progress bar, tables, and names that are safe to show.

`escaping.printable()` is for every name or message that comes from an image, a registry or a file system: no text from
outside reaches a terminal without it. `progress.Console` writes steps, errors and the bar to standard error, so that
standard output is free for data. `tables.table()` makes lines that fit a `Screen`, and `wrapping.fill()` breaks
messages between words; without a terminal nothing is cut, broken or coloured.

tqdm is imported only where a bar is shown. May import sizes and threads.
"""
