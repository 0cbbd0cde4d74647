"""What tests share: builders, servers, tools, fixtures' parts."""
