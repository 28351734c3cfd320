"""How weights travel from the learner to its engines. Each way is a file with both of its halves.

learner: ship(tensors) -> Shipment -> ticket(engine)   ...   engine: fetch(ticket) -> names and tensors
"""
