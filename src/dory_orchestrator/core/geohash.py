"""Geohash of a place (G. Niemeyer, 2008): its bits are those of longitude and latitude in turn."""

_ALPHABET = "0123456789bcdefghjkmnpqrstuvwxyz"


def geohash(latitude: float, longitude: float, length: int = 9) -> str:
    """`length` characters; nine are about five metres."""
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]
    place = (longitude, latitude)
    text, bits = "", 0
    for number in range(length * 5):
        axis = number % 2
        low, high = ranges[axis]
        middle = (low + high) / 2
        upper = place[axis] >= middle
        ranges[axis][0 if upper else 1] = middle
        bits = bits * 2 + upper
        if number % 5 == 4:
            text, bits = text + _ALPHABET[bits], 0
    return text
