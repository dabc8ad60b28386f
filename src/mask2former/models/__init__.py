"""The network: backbones, pixel decoders, transformer decoders, and how they are combined."""
