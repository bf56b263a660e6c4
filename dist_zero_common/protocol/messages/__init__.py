"""Everything that services, nodes and clients say to each other, as frozen dataclasses; a module for each conversation.

`schemas/messages.capnp` holds the same structs field by field (snake_case here, camelCase there), and `codec.py` maps
one to the other. `envelope.py` has the list of all.

Requests carry a number chosen by the asker, which comes back in the answer; the asker may ask again with the same
number. Bytes fields called `graph` and `payload` are messages of their own (`GraphBlob`, `Payload`), kept encoded so
that they are stored and hashed as they came.
"""
