"""`hrm studio`: a page for people who do not type commands, on the server's own routes and a few more."""
