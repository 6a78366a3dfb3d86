"""What the gateway should be, in Envoy's words: frozen values with nothing left to guess.

`resolve` writes them, `translate` reads them. They know nothing of YAML, of pydantic or of protobuf. Times are integer
milliseconds and sizes integer bytes, named so.
"""
