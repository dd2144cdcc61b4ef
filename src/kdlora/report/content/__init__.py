"""The sections of a report: the sentences, tables and charts of each."""
