"""What a scoring run is asked, what it tells, how it is judged: no SQL."""
