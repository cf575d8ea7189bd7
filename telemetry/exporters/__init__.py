"""From the records of requests to spans at a backend, away from the requests' path."""
