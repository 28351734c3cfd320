"""What runs inside a sandbox: it is all of Strop that is there, and imports the standard library only."""
