"""Tests over real RabbitMQ and real containers: `pytest -k virtual`. They need Docker (see fixtures.py)."""
