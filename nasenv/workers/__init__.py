"""Worker processes that do one job at a time, and are replaced if they die."""
