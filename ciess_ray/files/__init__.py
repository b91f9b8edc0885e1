"""Files that are written whole or not at all, their checksums, and files of other programs."""
