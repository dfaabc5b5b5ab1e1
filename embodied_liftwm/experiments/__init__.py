"""`liftwm reproduce`: experiments of the project, each rows that are trained, judged and reported."""
