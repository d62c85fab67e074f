"""Run records to statistics, tables and figures; no number is typed."""
