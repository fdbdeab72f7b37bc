"""The routes of the API, one file each."""
