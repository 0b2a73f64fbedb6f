"""PSNR and SSIM as MATLAB computes them, and the tables and figures made from them."""
