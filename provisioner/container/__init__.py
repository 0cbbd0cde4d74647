"""A provisioned directory: its record, its staging, the list of all, what runs from them."""
