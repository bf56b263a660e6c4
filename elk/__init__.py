"""Elasticsearch, Logstash and Kibana for the logs: see README.md."""
