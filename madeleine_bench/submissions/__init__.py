"""Submissions: what a stranger sends, read without running it, and scored again."""
