"""The one reader of tables in files, which both wings share, and how tables are written."""
