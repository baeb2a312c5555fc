// A round-robin arbiter: grants one request per clock, and the one after it comes first the next time.
module arbiter #(
    parameter WIDTH = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire [WIDTH-1:0] request,
    output reg  [WIDTH-1:0] grant
);
    // Bits at and above the place that comes first.
    reg [WIDTH-1:0] mask;

    wire [WIDTH-1:0] ahead = request & mask;
    wire [WIDTH-1:0] candidates = ahead != 0 ? ahead : request;
    wire [WIDTH-1:0] lowest = candidates & (~candidates + 1'b1);

    always @(posedge clk) begin
        if (rst) begin
            grant <= 0;
            mask <= {WIDTH{1'b1}};
        end else begin
            grant <= lowest;
            if (lowest != 0) mask <= ~((lowest << 1) - 1'b1);
        end
    end
endmodule
