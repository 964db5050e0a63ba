"""Queries of people and of their tools: checked, bound to stored tables, run in processes that can be ended at any moment."""
