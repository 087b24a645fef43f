"""Past one machine: API nodes and workers over RabbitMQ and Redis."""
