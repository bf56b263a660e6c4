"""What hosts run before there is any DistZero on them: it becomes part of their user data, and needs nothing but what
every image has that runs user data."""
