function [mean_psnr, mean_ssim] = calculate_PSNR_SSIM(dataset, scale, bit, sr_folder, hr_folder)
% PSNR (dB) and SSIM of a network's saved outputs: per image and the means, on luma, without a border of SCALE pixels.
%
%   calculate_PSNR_SSIM('Set5', 4, 4)
%   calculate_PSNR_SSIM(dataset, scale, bit, sr_folder, hr_folder)
%
% sr_folder: outputs <bit>bit_<name>_x<scale>_SR.png, <name>_x<scale>_SR.png or <name>.png; default
%   ../experiment/output/edsrx<scale>/<bit>bit/results-<dataset>, as seen from the repository.
% hr_folder: originals <name>.png; default datasets/benchmark/<dataset>/HR in the repository.
% HR images are cropped to the size of the output, top left kept. Grey images become colour beside a colour partner;
% two grey images are compared as they are. Runs in MATLAB and in GNU Octave and needs no toolbox.

repository = fileparts(fileparts(mfilename('fullpath')));
if nargin < 4 || isempty(sr_folder)
    run_folder = fullfile(fileparts(repository), 'experiment', 'output', sprintf('edsrx%d', scale), sprintf('%dbit', bit));
    sr_folder = fullfile(run_folder, ['results-' dataset]);
end
if nargin < 5 || isempty(hr_folder)
    hr_folder = fullfile(repository, 'datasets', 'benchmark', dataset, 'HR');
end

originals = dir(fullfile(hr_folder, '*.png'));
if isempty(originals)
    error('%s: no PNG images of %s in it', hr_folder, dataset);
end

psnr_values = [];
ssim_values = [];
for i = 1:numel(originals)
    [~, name] = fileparts(originals(i).name);
    sr_path = find_output(sr_folder, name, scale, bit);
    if isempty(sr_path)
        fprintf('missing: %s has no partner in %s\n', name, sr_folder);
        continue
    end
    [hr, sr] = read_pair(fullfile(hr_folder, originals(i).name), sr_path, scale);
    psnr_values(end + 1) = psnr_of(sr, hr); %#ok<AGROW>
    ssim_values(end + 1) = ssim_of(sr, hr); %#ok<AGROW>
    fprintf('%-24s %10.6f %9.6f\n', name, psnr_values(end), ssim_values(end));
end
if isempty(psnr_values)
    error('%s: no output of %s at scale %d and %d bit in it', sr_folder, dataset, scale, bit);
end

mean_psnr = mean(psnr_values);
mean_ssim = mean(ssim_values);
lacking = '';
if numel(psnr_values) < numel(originals)
    lacking = sprintf(', %d of %d images', numel(psnr_values), numel(originals));
end
fprintf('%-24s %10.6f %9.6f\n', sprintf('mean (%s, x%d%s)', dataset, scale, lacking), mean_psnr, mean_ssim);
end


function path = find_output(folder, name, scale, bit)
% The first of the three possible names that exists, '' if none does.
names = {sprintf('%dbit_%s_x%d_SR.png', bit, name, scale), sprintf('%s_x%d_SR.png', name, scale), [name '.png']};
path = '';
for i = 1:numel(names)
    if exist(fullfile(folder, names{i}), 'file')
        path = fullfile(folder, names{i});
        return
    end
end
end


function [hr, sr] = read_pair(hr_path, sr_path, scale)
% Both images as double luma planes in 0..255, equal in size, without the border.
hr = read_image(hr_path);
sr = read_image(sr_path);
excess = [size(hr, 1) - size(sr, 1), size(hr, 2) - size(sr, 2)];
if any(excess < 0) || any(excess >= scale)
    error('%s: %dx%d pixels do not fit the HR image''s %dx%d at scale %d', ...
        sr_path, size(sr, 2), size(sr, 1), size(hr, 2), size(hr, 1), scale);
end
hr = hr(1:size(sr, 1), 1:size(sr, 2), :);
if size(hr, 3) ~= size(sr, 3)
    hr = as_colour(hr);
    sr = as_colour(sr);
end
hr = without_border(luma_of(hr), scale);
sr = without_border(luma_of(sr), scale);
end


function image = read_image(path)
% Double [h w c] in 0..255, whatever the file's bit depth.
[image, map] = imread(path);
if ~isempty(map)
    image = uint8(round(255 * ind2rgb(image, map)));
end
if islogical(image)
    image = 255 * image;
elseif isa(image, 'uint16')
    image = round(double(image) / 257);
end
image = double(image);
end


function image = as_colour(image)
if size(image, 3) == 1
    image = repmat(image, [1 1 3]);
end
end


function luma = luma_of(image)
% rgb2ycbcr's first plane, in double and scaled to 16..235; a grey image is its own luma.
if size(image, 3) == 1
    luma = image;
else
    luma = (65.481 * image(:, :, 1) + 128.553 * image(:, :, 2) + 24.966 * image(:, :, 3)) / 255 + 16;
end
end


function image = without_border(image, border)
image = image(border + 1:end - border, border + 1:end - border);
end


function value = psnr_of(x, y)
value = 10 * log10(255 ^ 2 / mean((x(:) - y(:)) .^ 2));
end


function value = ssim_of(x, y)
% Wang et al. 2004: 11x11 Gaussian windows, sigma 1.5, that lie inside the image.
if min(size(x)) < 11
    error('SSIM needs 11x11 pixels inside the border, there are %dx%d', size(x, 1), size(x, 2));
end
line = exp(-(-5:5) .^ 2 / (2 * 1.5 ^ 2));
line = line / sum(line);
window_mean = @(image) conv2(line, line, image, 'valid');
c1 = (0.01 * 255) ^ 2;
c2 = (0.03 * 255) ^ 2;
mean_x = window_mean(x);
mean_y = window_mean(y);
variances = window_mean(x .^ 2 + y .^ 2) - mean_x .^ 2 - mean_y .^ 2;
covariance = window_mean(x .* y) - mean_x .* mean_y;
map = (2 * mean_x .* mean_y + c1) .* (2 * covariance + c2) ./ ((mean_x .^ 2 + mean_y .^ 2 + c1) .* (variances + c2));
value = mean(map(:));
end
