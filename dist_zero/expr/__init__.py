"""The language: what a user builds when writing a program, typed and checked as it is built."""
