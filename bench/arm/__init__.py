"""How good ARM code is, judged without an ARM processor: instructions counted, cycles estimated."""
