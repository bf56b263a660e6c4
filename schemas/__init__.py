"""What the processes say to each other, in Cap'n Proto; README.md beside this file says how it may change."""
