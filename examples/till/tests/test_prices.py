import unittest

from till.prices import parse, show


class Prices(unittest.TestCase):
    def test_points_and_commas(self):
        self.assertEqual([parse(text) for text in ("3", "3.50", "3,50", "0.05")], [300, 350, 350, 5])

    def test_one_digit_is_ten_cents(self):
        self.assertEqual(parse("3.5"), 350)

    def test_what_is_no_price(self):
        for text in ("", "x", "3.505", "-1"):
            with self.assertRaises(ValueError):
                parse(text)

    def test_shown(self):
        self.assertEqual(show(305), "3.05")
