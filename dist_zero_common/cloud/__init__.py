"""What systems on EC2 are made of: what instances are to be, how they begin, what they cost, and how AWS is asked."""
