"""The leaderboard's web pages: a pure function from the board document to files."""

from madeleine_bench.leaderboard.page.serve import open_server, serve
from madeleine_bench.leaderboard.page.site import page_files, write_site

__all__ = ["open_server", "page_files", "serve", "write_site"]
