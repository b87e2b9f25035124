"""What every test shares."""

import torch

torch.set_num_threads(1)  # tests are small, and two threads that spin for work cost more than they bring
