"""One module a command: add(commands) gives it its flags, run_... does it. Heavy packages are imported when it runs."""
