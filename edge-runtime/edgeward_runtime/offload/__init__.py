"""Hard and overflowing requests to another server of the Open Inference Protocol, within a stated budget.

steering.py says which answers are worth a second opinion, routes.py what a way costs and whether it is open; both are
plain arithmetic with the time handed in. client.py sends, wire.py packs, forward.py joins them to the engine.
"""
