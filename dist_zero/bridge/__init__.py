"""A user's own RabbitMQ queue as the source of a dataset: what is declared (`source.py`), what becomes of a message
(`decoding.py`), what has been applied (`ledger.py`), and the process that does it (`bridge.py`)."""
