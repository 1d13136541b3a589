"""The chain: turning last vouchers into coins, on its own clock."""
