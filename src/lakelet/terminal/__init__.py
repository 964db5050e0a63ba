"""What the command line shows: an update while it runs, rows, events, and reports of crashes."""
