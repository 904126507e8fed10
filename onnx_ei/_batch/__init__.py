"""Many models to one file: appended row by row, measured in processes of their own."""
