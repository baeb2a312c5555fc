// A low-pass filter of eight taps with symmetric coefficients: one sample in and one out per clock.
module fir (
    input  wire               clk,
    input  wire               rst,
    input  wire               valid,
    input  wire signed [7:0]  sample,
    output reg  signed [15:0] filtered
);
    reg signed [7:0] delay [0:7];
    integer i;

    wire signed [8:0] outer = delay[0] + delay[7];
    wire signed [8:0] second = delay[1] + delay[6];
    wire signed [8:0] third = delay[2] + delay[5];
    wire signed [8:0] inner = delay[3] + delay[4];

    always @(posedge clk) begin
        if (rst) begin
            for (i = 0; i < 8; i = i + 1) delay[i] <= 0;
            filtered <= 0;
        end else if (valid) begin
            for (i = 7; i > 0; i = i - 1) delay[i] <= delay[i-1];
            delay[0] <= sample;
            filtered <= outer * 16'sd3 + second * 16'sd11 + third * 16'sd24 + inner * 16'sd33;
        end
    end
endmodule
