"""What captures: the requests of a Flask app, and the queries of `sqlite3`."""
