"""Pages, tables and charts made from stored records."""
