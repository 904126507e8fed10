"""What topology and spans are made of: reading, operators, patterns, windows, rewriting."""
