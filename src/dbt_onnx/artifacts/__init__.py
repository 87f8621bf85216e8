"""What a registered version is: file, card and registry row, read and checked."""
