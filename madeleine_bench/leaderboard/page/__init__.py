"""The leaderboard's web pages: a pure function from the board document to files."""

from madeleine_bench.leaderboard.page.site import check_site_folder, page_files, write_site

__all__ = ["check_site_folder", "page_files", "write_site"]
