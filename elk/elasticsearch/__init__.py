"""What Elasticsearch is given."""
