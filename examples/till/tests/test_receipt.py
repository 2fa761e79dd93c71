import unittest

from till.basket import Basket
from till.receipt import lines


class Receipts(unittest.TestCase):
    def test_several_of_a_kind_stand_in_one_line(self):
        basket = Basket()
        basket.add("tea", 250, count=2)
        basket.add("nut", 5)
        self.assertEqual(lines(basket), ["2 tea  5.00", "1 nut  0.05", "total  5.05"])
