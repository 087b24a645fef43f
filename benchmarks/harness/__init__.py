"""The parts that both kinds of measurement share: servers, clients, the model, texts, plots."""
