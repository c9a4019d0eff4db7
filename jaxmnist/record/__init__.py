"""What a run leaves behind: its workdir, and what it shows while it works."""
