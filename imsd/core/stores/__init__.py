"""The stores as the service shows them: what lies in them, what they keep of their promises, and moves."""
