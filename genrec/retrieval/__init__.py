"""Users like this user: two paths to them, their merge, their votes for items, and the cache of it all."""
