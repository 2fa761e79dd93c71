import unittest

from till.basket import Basket


class Baskets(unittest.TestCase):
    def test_a_sum(self):
        basket = Basket()
        basket.add("tea", 250, count=2)
        self.assertEqual(basket.total(), 500)

    def test_at_least_one(self):
        for count in (0, -1):
            with self.assertRaises(ValueError):
                Basket().add("tea", 250, count=count)

    def test_half_a_cent_is_the_customers(self):
        basket = Basket()
        basket.add("nut", 1)
        basket.add("tea", 250)
        self.assertEqual(basket.total(discount=50), 125)
        basket.add("nut", 2)
        self.assertEqual(basket.total(discount=50), 126)
