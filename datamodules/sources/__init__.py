"""Rows as they are read from files and data sets, and rows that are kept in files of a cache."""
