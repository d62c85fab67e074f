"""The answer reader: text → tokens → what the answer is → whether two answers are the same."""
